"""One file per claim; each offers `measure(place) -> Iterator[Figure]`."""
