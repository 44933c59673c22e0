"""README's quickstart is the one that the type checkers see."""

from pathlib import Path

CHECKOUT = Path(__file__).parents[2]


def test_the_quickstart_that_is_type_checked_is_that_of_the_readme():
    checked = (CHECKOUT / "tests" / "typing" / "quickstart.py").read_text()
    assert f"```python\n{checked}```" in (CHECKOUT / "README.md").read_text()
