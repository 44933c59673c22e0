SELECT pgqrs.pgqrs_workflows.status, pgqrs.pgqrs_workflows.executor, pgqrs.pgqrs_workflows.queue, pgqrs.pgqrs_workflows.epoch, pgqrs.pgqrs_workflows.codec, pgqrs.pgqrs_workflows.batch_id, pgqrs.pgqrs_workflows.releases_key, pgqrs.pgqrs_workflows.unique_value
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.id = $1::BIGINT
FOR NO KEY UPDATE
