"""${message}.

Revision ${up_revision}, after ${comma(down_revision) or "nothing"}.
"""

import sqlalchemy as sa
from alembic.operations import Operations
% if imports:
${imports}
% endif

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}
<%
    # Autogenerate writes the name of the schema that it compared; the tables belong in the one that is asked for.
    def anywhere(code):
        return (code or "pass").replace(f"schema={context.get('schema', None)!r}", "schema=schema")
%>

def upgrade(op: Operations) -> None:
    """Bring the schema from revision ${comma(down_revision) or "nothing"} to ${up_revision}."""
    schema = op.get_context().version_table_schema
    ${anywhere(upgrades)}


def downgrade(op: Operations) -> None:
    """Take the schema back from revision ${up_revision}."""
    schema = op.get_context().version_table_schema
    ${anywhere(downgrades)}
