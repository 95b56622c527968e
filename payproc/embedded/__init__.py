"""The embedded PostgreSQL: a real server for users without one."""
