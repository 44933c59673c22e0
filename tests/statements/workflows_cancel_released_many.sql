WITH handed AS
(UPDATE pgqrs.pgqrs_workflows
SET status='PENDING', epoch=(pgqrs.pgqrs_workflows.epoch + $2::BIGINT), claim=NULL, updated_at=now(), queue=coalesce(pgqrs.pgqrs_workflows.queue, 'default'), ready_at=coalesce(pgqrs.pgqrs_workflows.ready_at, now()), due_at=NULL, executor=NULL, deadline=NULL, cancel_interrupts=NULL, saga_state='CANCELLED'
WHERE pgqrs.pgqrs_workflows.id = any(coalesce((SELECT CAST($3::TEXT AS BIGINT[]) AS anon_1), '{}'))
AND pgqrs.pgqrs_workflows.executor = '00000000-0000-0000-0000-000000000000'::uuid
AND pgqrs.pgqrs_workflows.saga_state IS NOT NULL)
 UPDATE pgqrs.pgqrs_workflows
SET status=$1::TEXT, epoch=(pgqrs.pgqrs_workflows.epoch + $2::BIGINT), claim=NULL, completed_at=now(), updated_at=now(), ready_at=NULL, due_at=NULL, executor=NULL, deadline=NULL, cancel_interrupts=NULL
WHERE pgqrs.pgqrs_workflows.id = any(coalesce((SELECT CAST($3::TEXT AS BIGINT[]) AS anon_1), '{}'))
AND pgqrs.pgqrs_workflows.executor = '00000000-0000-0000-0000-000000000000'::uuid
AND pgqrs.pgqrs_workflows.saga_state IS NULL
