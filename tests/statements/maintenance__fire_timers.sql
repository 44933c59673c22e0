WITH due AS
(SELECT pgqrs.pgqrs_workflows.id AS id
FROM pgqrs.pgqrs_workflows
WHERE pgqrs.pgqrs_workflows.due_at <= now()
AND pgqrs.pgqrs_workflows.due_at >= now() - $1::FLOAT * interval '1 second'
ORDER BY pgqrs.pgqrs_workflows.due_at

LIMIT 2000
FOR NO KEY UPDATE SKIP LOCKED)
 UPDATE pgqrs.pgqrs_workflows
SET status='PENDING', updated_at=now(), ready_at=pgqrs.pgqrs_workflows.due_at, due_at=NULL
FROM due
WHERE pgqrs.pgqrs_workflows.id = due.id
RETURNING pgqrs.pgqrs_workflows.id
