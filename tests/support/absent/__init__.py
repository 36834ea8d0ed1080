"""Stand-ins on the receiver's path for packages that the tests need and its users do not have."""
