"""Certificates of a test cluster, made by the very commands of docs/tls.md."""

import re
import subprocess
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "tls.md"
_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Pki:
    """A folder of PKI files: those of the page, and whatever else is signed."""

    def __init__(self, directory: Path):
        directory.mkdir()
        self.directory = directory
        # CA, the function that signs, the certificates.
        ca, self._sign, certificates = _BLOCK.findall(PAGE.read_text())
        self._run("\n".join((ca, self._sign, certificates)))

    @property
    def ca(self) -> Path:
        """The certificate of the CA."""
        return self.directory / "ca.crt"

    def cert(self, name: str) -> Path:
        """A certificate."""
        return self.directory / f"{name}.crt"

    def key(self, name: str) -> Path:
        """Its key."""
        return self.directory / f"{name}.key"

    def own(self, name: str) -> dict[str, str]:
        """Certificate and key as in configuration files."""
        return {"cert": str(self.cert(name)), "key": str(self.key(name))}

    def sign(self, name: str, subject: str, *extensions: str, days: int = 1) -> None:
        """Make another certificate by the page's function."""
        text = "\n".join(extensions or ("extendedKeyUsage=clientAuth",))
        self._run(f'umask 077\n{self._sign}\nDAYS={days} sign "$@"', name, subject, text)

    def _run(self, commands: str, *arguments: str) -> None:
        script = ["bash", "-euo", "pipefail", "-c", commands, "docs/tls.md", *arguments]
        done = subprocess.run(script, cwd=self.directory, capture_output=True, text=True)
        if done.returncode:
            raise AssertionError(f"the commands of docs/tls.md ended with {done.returncode}:\n{done.stderr}")
