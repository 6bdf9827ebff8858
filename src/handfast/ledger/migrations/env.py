"""Alembic's entry point: run the revisions on the connection, in the transaction, that ``ledger.schema`` gives."""

from alembic import context

from handfast.ledger.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=False,  # the transaction is not Alembic's: schema began it and ends it
    render_as_batch=True,
)
context.run_migrations()
