"""Sends LONK messages over NATS, and registrations from the outbox to CUBE by broker or HTTP."""
