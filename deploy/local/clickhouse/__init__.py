"""ClickHouse's HTTP protocol over the embedded engine (chdb), so that clients can't tell it from a small server.

Not there: sessions and temporary tables, users, compressed answers, external tables sent as forms.
"""
