"""The quickstart of the README equals the quickstart that is type-checked."""

from pathlib import Path

CHECKOUT = Path(__file__).parents[2]


def test_type_checked_quickstart_is_in_the_readme():
    checked = (CHECKOUT / "tests" / "typing" / "quickstart.py").read_text()
    assert f"```python\n{checked}```" in (CHECKOUT / "README.md").read_text()
