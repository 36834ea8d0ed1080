"""On the receiver's path: what the tests have installed and its users have not."""
