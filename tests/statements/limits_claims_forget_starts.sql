DELETE
FROM pgqrs.pgqrs_rates
WHERE pgqrs.pgqrs_rates.free_at < now() - interval '3600.0 second'
