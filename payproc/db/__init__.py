"""The database: its location, connections to it, its errors in a user's words, and its schema."""
