"""A receiver of spool entries that writes down what it gets."""

from hpsearch.tracking.spool_file import Away


class Ledger:
    """Writes down what it receives; away while `is_away`."""

    def __init__(self):
        self.is_away, self.rows, self.opened = False, [], []

    def open(self, entry, is_mine):
        if self.is_away:
            raise Away
        self.opened.append((entry["number"], is_mine))
        return {"run_id": f"run-{entry['number']}"}

    def take(self, state, entries):
        if self.is_away:
            raise Away
        self.rows += [(state["run_id"], entry["entry"], entry.get("value")) for entry in entries]


def opening(number=7):
    return {"entry": "open", "number": number}


def metric(value):
    return {"entry": "metrics", "value": value}
