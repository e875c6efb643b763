"""Finding a cell of a table."""

from pemath.lab.report.blocks import Report, Table, shown


def table(made: Report, name: str) -> Table:
    return next(each for each in made.tables() if each.name == name)


def cells(found: Table, group: str, name: str) -> list[str]:
    [line] = [
        row
        for each in found.groups
        if each.title == group
        for row in each.rows
        if row[0].text == name
    ]
    return [shown(entry) for entry in line]
