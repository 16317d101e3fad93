"""ccatwm: stateless passes that turn archived raw data packages into products with provenance."""

__version__ = "0.1.0"
