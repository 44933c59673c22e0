INSERT INTO pgqrs.pgqrs_archive_months (month) SELECT $1::DATE AS anon_1
ON CONFLICT DO NOTHING
