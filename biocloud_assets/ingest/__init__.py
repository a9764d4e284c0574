"""One delivery into the lake, for any contract. It knows neither an orchestrator nor a particular source."""
