"""`python -m w2vbert_asr` is `w2vbert`."""

import sys

from w2vbert_asr.cli import main

if __name__ == "__main__":
    sys.exit(main())
