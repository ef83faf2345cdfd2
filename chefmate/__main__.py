# SPDX-License-Identifier: Apache-2.0
"""`python -m chefmate`."""

import sys

from chefmate.cli import main

sys.exit(main())
