"""The database: which one, how to connect, its errors in a user's words, and its schema."""
