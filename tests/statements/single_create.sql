INSERT INTO pgqrs.pgqrs_workflows (id, name, input, token, codec) SELECT $1::BIGINT AS anon_1, $2::TEXT AS anon_2, CAST($3::TEXT AS JSON) AS anon_3, $4::BIGINT AS anon_4, $5::TEXT AS anon_5
ON CONFLICT DO NOTHING
RETURNING pgqrs.pgqrs_workflows.epoch AS epoch
