"""The node as its executable runs it, with the fake engine in the model's place."""

import sys

from fake_engine import FakeEngine

from lisa_ros.process import main

if __name__ == "__main__":
    sys.exit(main(sys.argv, load=FakeEngine.from_pretrained))
