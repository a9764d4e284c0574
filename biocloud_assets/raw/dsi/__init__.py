"""The source DSI: digital species identification."""
