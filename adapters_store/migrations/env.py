"""What Alembic runs for every upgrade: the steps, inside the transaction of the caller.

The caller passes its connection as the attribute `connection`, with the lock already held.
"""

from alembic import context

context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
