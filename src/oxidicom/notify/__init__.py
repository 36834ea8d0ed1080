"""What the world is told: LONK progress over NATS, registrations over a broker, by an outbox."""
