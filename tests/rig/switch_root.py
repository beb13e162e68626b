#!/usr/bin/env python3
"""The agents' before_restart hook in tests: moves a host to another ZooKeeper root when it has been told to.

    switch_root.py HOSTDIR

Does nothing unless HOSTDIR/switch-root exists, which holds the new root. Safe to run any number of times.
"""

import sys
import xml.etree.ElementTree as xml
from pathlib import Path

ORDER = "switch-root"


def main() -> None:
    directory = Path(sys.argv[1])
    order = directory / ORDER
    if not order.exists():
        return
    config = directory / "config.xml"
    tree = xml.parse(config)
    ensemble = tree.getroot().find("zookeeper")
    root = ensemble.find("root")
    if root is None:
        root = xml.SubElement(ensemble, "root")
    root.text = order.read_text().strip()
    # A host that starts in the middle of this must find the one file or the other.
    new = config.with_suffix(".new")
    tree.write(new)
    new.replace(config)


if __name__ == "__main__":
    main()
