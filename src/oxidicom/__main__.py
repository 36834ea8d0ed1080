import sys

from oxidicom.cli import main

sys.exit(main())
