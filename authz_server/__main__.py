"""``python -m authz_server`` is the ``authz-server`` command."""

import sys

from authz_server.cli import main

sys.exit(main())
