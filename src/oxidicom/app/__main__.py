"""What the notifier starts a worker by; nobody else does."""

from oxidicom.app.worker import main

if __name__ == "__main__":
    main()
