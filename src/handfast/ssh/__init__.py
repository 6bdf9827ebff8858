"""SSH host keys on their way in, from machines and clouds, and out, to ssh and what else asks for them."""
