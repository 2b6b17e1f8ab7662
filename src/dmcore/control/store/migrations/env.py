"""What Alembic runs: the migrations, on the connection and in the transaction that `upgrade` opened."""

from alembic import context

from dmcore.control.store.tables import metadata

if __name__ == "env_py":  # the name that Alembic gives it; imported as a module, it does nothing
    context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
    context.run_migrations()
