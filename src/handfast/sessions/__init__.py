"""Sessions: one server, its clients, and nobody else between them."""
