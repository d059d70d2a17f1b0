"""HTTP → HTTP: an OpenAI-compatible server and a chat page on one engine. Start with server.py."""
