"""What was found wrong while one configuration was read: all of it, not only the first thing."""

from pgdoorman.config.document import Node, Path, find, spell
from pgdoorman.errors import ConfigError, ConfigErrors


class Findings:
    """Collects errors and warnings, each with its place."""

    def __init__(self, files: list[str]) -> None:
        self._files = files  # in the order in which they were read, which is the order of the report
        self._root: Node | None = None
        self._broken: set[Path] = set()
        self.errors: list[ConfigError] = []
        self.warnings: list[str] = []

    def stand_on(self, root: Node) -> None:
        """Look places up in this tree from now on."""
        self._root = root

    def refuse(self, path: Path, message: str, node: Node) -> None:
        """An error at a node. What stands at `path` counts as unknown from now on."""
        self.doubt(path)
        self.errors.append(ConfigError(message, file=node.file, line=node.line, key=spell(path)))

    def doubt(self, path: Path) -> None:
        """What stands at `path` counts as unknown from now on: no rule looks at it."""
        self._broken.add(path)

    def add(self, error: ConfigError) -> None:
        """An error that knows its own place."""
        self.errors.append(error)

    def forbid(self, message: str, path: Path, *others: Path) -> None:
        """An error about how several keys go together, told at the first. Not told while one of them is itself wrong,
        for then nobody knows what was meant."""
        if not self._broken.intersection((path, *others)):
            self.refuse(path, message, self.place(path))

    def warn(self, message: str, path: Path, *others: Path) -> None:
        """Something that is allowed but hardly meant."""
        if self._broken.intersection((path, *others)):
            return
        node = self.place(path)
        self.warnings.append(f"{node.place}: {spell(path)}: {message}")

    def place(self, path: Path) -> Node:
        """Where `path` stands, or the nearest thing around it."""
        if self._root is None:
            raise LookupError("no tree to look in yet")
        return find(self._root, path)

    def is_broken(self, path: Path) -> bool:
        """Whether the value at `path` has already been refused."""
        return path in self._broken

    def finish(self) -> None:
        """Raises ConfigErrors if there was any error, in the order in which they stand in the files."""
        if self.errors:
            order = {name: position for position, name in enumerate(self._files)}
            raise ConfigErrors(sorted(self.errors, key=lambda error: (order.get(error.file, len(order)), error.line)))
