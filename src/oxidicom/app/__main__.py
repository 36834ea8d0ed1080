"""Entry point of a worker process; only the control process starts it."""

from oxidicom.app.worker import main

if __name__ == "__main__":
    main()
