"""One file for each kind of service that an agent can manage; ``base`` says what each does."""
