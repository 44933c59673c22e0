INSERT INTO pgqrs.pgqrs_workflows (id, name, input, token, executor, status, epoch, claim, started_at, timeout, deadline, codec) SELECT $1::BIGINT AS anon_1, $2::TEXT AS anon_2, CAST($3::TEXT AS JSON) AS anon_3, $4::BIGINT AS anon_4, $5::UUID AS anon_5, 'RUNNING', 1, $4::BIGINT AS anon__1, now() AS now_1, $6::FLOAT AS anon_6, now() + $6::FLOAT * interval '1 second' AS anon_7, $7::TEXT AS anon_8
ON CONFLICT DO NOTHING
RETURNING pgqrs.pgqrs_workflows.epoch AS epoch
