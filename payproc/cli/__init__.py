"""The command line: arguments in, exit code out.

A command imports the modules that use the database in its function, marked `# late`. They import
psycopg2 and msgspec, which take 30 ms of CPU, a third of `--help` and of shell completion.
"""
