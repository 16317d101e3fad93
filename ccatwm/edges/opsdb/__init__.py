"""The ops-db: tables, engine, stores, grouping queries, migrations."""
