"""The routes: each module reads the bodies of one route, and writes its replies. `service.app` puts them together."""
