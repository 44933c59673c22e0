WITH held AS
(SELECT pgqrs.pgqrs_workflows.id AS id, pgqrs.pgqrs_workflows.name AS name, pgqrs.pgqrs_workflows.status AS status, pgqrs.pgqrs_workflows.executor AS executor
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.id = $2::BIGINT
FOR NO KEY UPDATE),
asked AS
(UPDATE pgqrs.pgqrs_workflows
SET cancel_interrupts=(coalesce(pgqrs.pgqrs_workflows.cancel_interrupts, false)
OR $1::BOOLEAN)
FROM held
WHERE pgqrs.pgqrs_workflows.id = held.id
AND held.status = 'RUNNING'),
cancelled AS
(UPDATE pgqrs.pgqrs_workflows
SET status=$3::TEXT, completed_at=now(), updated_at=now(), ready_at=NULL, due_at=NULL, deadline=NULL, cancel_interrupts=NULL
FROM held
WHERE pgqrs.pgqrs_workflows.id = held.id
AND held.status IN ('PENDING', 'WAITING'))
 SELECT held.status, held.executor
FROM held
