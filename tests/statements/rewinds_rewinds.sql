SELECT pgqrs.pgqrs_rewinds.workflow_id, pgqrs.pgqrs_rewinds.before_step AS before, pgqrs.pgqrs_rewinds.epoch, pgqrs.pgqrs_rewinds.token, CASE WHEN (pgqrs.pgqrs_rewinds.rewound_at IS NOT NULL) THEN least(greatest(pgqrs.pgqrs_rewinds.rewound_at, timestamptz '0001-01-02 00:00:00+00'), timestamptz '9999-12-30 23:59:59+00') END AS rewound_at, pgqrs.pgqrs_rewinds.status, CAST(pgqrs.pgqrs_rewinds.output AS TEXT) AS output, CAST(pgqrs.pgqrs_rewinds.error AS TEXT) AS error, CASE WHEN (pgqrs.pgqrs_rewinds.completed_at IS NOT NULL) THEN least(greatest(pgqrs.pgqrs_rewinds.completed_at, timestamptz '0001-01-02 00:00:00+00'), timestamptz '9999-12-30 23:59:59+00') END AS completed_at
FROM pgqrs.pgqrs_rewinds
WHERE pgqrs.pgqrs_rewinds.workflow_id = $1::BIGINT
ORDER BY pgqrs.pgqrs_rewinds.epoch
