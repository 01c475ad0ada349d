"""Where the study is kept: a file in the folder of the run, PostgreSQL, or Redis."""
