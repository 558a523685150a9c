CREATE TABLE audit_log (
  seq BIGINT NOT NULL, 
  at VARCHAR(32) NOT NULL, 
  actor TEXT NOT NULL, 
  action VARCHAR(32) NOT NULL, 
  subject TEXT NOT NULL, 
  details TEXT NOT NULL, 
  previous VARCHAR(64) NOT NULL, 
  hash VARCHAR(64) NOT NULL, 
  PRIMARY KEY (seq), 
  UNIQUE (previous), 
  UNIQUE (hash)
);
CREATE TABLE gateway_keys (
  id VARCHAR(32) NOT NULL, 
  name VARCHAR(255) NOT NULL, 
  hash VARCHAR(64) NOT NULL, 
  apps JSON, 
  admin BOOLEAN NOT NULL, 
  requests_per_minute BIGINT, 
  tokens_per_minute BIGINT, 
  tokens_per_day BIGINT, 
  created_at FLOAT NOT NULL, 
  expires_at FLOAT, 
  revoked_at FLOAT, 
  PRIMARY KEY (id)
);
CREATE TABLE feedback (
  seq BIGSERIAL NOT NULL, 
  key VARCHAR(32) NOT NULL, 
  record_key VARCHAR(32) NOT NULL, 
  request_id VARCHAR(255) NOT NULL, 
  at FLOAT NOT NULL, 
  app VARCHAR(255) NOT NULL, 
  release VARCHAR(255), 
  caller VARCHAR(255) NOT NULL, 
  "user" VARCHAR(255), 
  score FLOAT, 
  label VARCHAR(255), 
  comment TEXT, 
  compared_to VARCHAR(255), 
  compared_key VARCHAR(32), 
  compared_release VARCHAR(255), 
  truth JSON, 
  PRIMARY KEY (seq), 
  UNIQUE (key)
);
CREATE INDEX ix_feedback_app ON feedback (app);
CREATE INDEX ix_feedback_record_key ON feedback (record_key);
CREATE TABLE idempotent_replies (
  caller VARCHAR(255) NOT NULL, 
  key VARCHAR(255) NOT NULL, 
  fingerprint VARCHAR(64) NOT NULL, 
  token VARCHAR(32) NOT NULL, 
  process VARCHAR(255) NOT NULL, 
  expires_at FLOAT NOT NULL, 
  request_id VARCHAR(255), 
  status INTEGER, 
  headers JSON, 
  body BYTEA, 
  PRIMARY KEY (caller, key)
);
CREATE INDEX ix_idempotent_replies_expires_at ON idempotent_replies (expires_at);
CREATE TABLE log_records (
  seq BIGSERIAL NOT NULL, 
  key VARCHAR(32) NOT NULL, 
  request_id VARCHAR(255) NOT NULL, 
  at FLOAT NOT NULL, 
  app VARCHAR(255) NOT NULL, 
  release VARCHAR(255), 
  prompt VARCHAR(255), 
  model VARCHAR(255), 
  status INTEGER NOT NULL, 
  outcome VARCHAR(32) NOT NULL, 
  input TEXT NOT NULL, 
  output TEXT NOT NULL, 
  tokens_in BIGINT, 
  tokens_out BIGINT, 
  latency_ms FLOAT, 
  first_token_ms FLOAT, 
  details JSON NOT NULL, 
  route VARCHAR(32), 
  caller VARCHAR(255), 
  "user" VARCHAR(512), 
  text_deleted_at FLOAT, 
  PRIMARY KEY (seq), 
  UNIQUE (key)
);
CREATE INDEX ix_log_records_at ON log_records (at);
CREATE INDEX ix_log_records_request_id ON log_records (request_id);
CREATE INDEX log_records_app_at ON log_records (app, at);
CREATE INDEX log_records_user ON log_records ("user") WHERE "user" IS NOT NULL;
CREATE TABLE token_counts (
  key_id VARCHAR(32) NOT NULL, 
  "window" VARCHAR(8) NOT NULL, 
  clock VARCHAR(64) NOT NULL, 
  begun FLOAT NOT NULL, 
  used BIGINT NOT NULL, 
  PRIMARY KEY (key_id, "window")
);
CREATE TABLE token_reservations (
  id VARCHAR(32) NOT NULL, 
  key_id VARCHAR(32) NOT NULL, 
  tokens BIGINT NOT NULL, 
  process VARCHAR(255) NOT NULL, 
  expires_at FLOAT NOT NULL, 
  PRIMARY KEY (id)
);
CREATE INDEX ix_token_reservations_key_id ON token_reservations (key_id);
CREATE TABLE alarm_book (
  id BIGSERIAL NOT NULL, 
  open_key VARCHAR(64), 
  identity VARCHAR(64) NOT NULL, 
  app VARCHAR(255) NOT NULL, 
  release VARCHAR(255), 
  what VARCHAR(255) NOT NULL, 
  kind VARCHAR(32) NOT NULL, 
  side VARCHAR(16) NOT NULL, 
  severity VARCHAR(16) NOT NULL, 
  slice JSON NOT NULL, 
  why TEXT NOT NULL, 
  rows JSON NOT NULL, 
  cure JSON, 
  run_id VARCHAR(64), 
  source VARCHAR(255) NOT NULL, 
  first_at FLOAT NOT NULL, 
  last_at FLOAT NOT NULL, 
  times INTEGER NOT NULL, 
  told INTEGER NOT NULL, 
  told_at FLOAT, 
  acknowledged_at FLOAT, 
  acknowledged_by VARCHAR(255), 
  resolved_at FLOAT, 
  PRIMARY KEY (id), 
  UNIQUE (open_key)
);
CREATE INDEX ix_alarm_book_app ON alarm_book (app);
CREATE INDEX ix_alarm_book_identity ON alarm_book (identity);
CREATE TABLE alert_outbox (
  id BIGSERIAL NOT NULL, 
  alert_id VARCHAR(255) NOT NULL, 
  channel VARCHAR(255) NOT NULL, 
  payload JSON NOT NULL, 
  created_at FLOAT NOT NULL, 
  next_try_at FLOAT NOT NULL, 
  attempts INTEGER NOT NULL, 
  sent_at FLOAT, 
  given_up_at FLOAT, 
  last_error TEXT, 
  PRIMARY KEY (id), 
  UNIQUE (alert_id, channel)
);
CREATE INDEX alert_outbox_due ON alert_outbox (sent_at, given_up_at, next_try_at);
CREATE TABLE daemon_stages (
  stage VARCHAR(64) NOT NULL, 
  runs BIGINT NOT NULL, 
  failures BIGINT NOT NULL, 
  last_run_at FLOAT NOT NULL, 
  last_failure_at FLOAT, 
  last_error TEXT, 
  PRIMARY KEY (stage)
);
CREATE TABLE monitor_actions (
  key VARCHAR(512) NOT NULL, 
  app VARCHAR(255) NOT NULL, 
  action VARCHAR(32) NOT NULL, 
  release VARCHAR(255) NOT NULL, 
  dry_run BOOLEAN NOT NULL, 
  first_alarm BIGINT NOT NULL, 
  through BIGINT NOT NULL, 
  status VARCHAR(16) NOT NULL, 
  why TEXT NOT NULL, 
  evidence JSON NOT NULL, 
  outcome JSON, 
  attempts INTEGER NOT NULL, 
  decided_at FLOAT NOT NULL, 
  claimed_by VARCHAR(255) NOT NULL, 
  claimed_until FLOAT NOT NULL, 
  finished_at FLOAT, 
  run_id VARCHAR(64), 
  PRIMARY KEY (key)
);
CREATE INDEX ix_monitor_actions_app ON monitor_actions (app);
CREATE TABLE monitor_leases (
  name VARCHAR(64) NOT NULL, 
  holder VARCHAR(255) NOT NULL, 
  until FLOAT NOT NULL, 
  PRIMARY KEY (name)
);
CREATE TABLE retention_clock (
  id SERIAL NOT NULL, 
  seen_at FLOAT, 
  doubted_at FLOAT, 
  PRIMARY KEY (id)
);
CREATE TABLE tested_windows (
  app VARCHAR(255) NOT NULL, 
  until FLOAT NOT NULL, 
  since FLOAT NOT NULL, 
  tested_at FLOAT NOT NULL, 
  state VARCHAR(32) NOT NULL, 
  run_id VARCHAR(64), 
  result JSON NOT NULL, 
  PRIMARY KEY (app, until)
);
CREATE TABLE detector_alarms (
  app VARCHAR(255) NOT NULL, 
  dimension VARCHAR(32) NOT NULL, 
  value VARCHAR(512) NOT NULL, 
  descriptor VARCHAR(255) NOT NULL, 
  at FLOAT NOT NULL, 
  crossing JSON NOT NULL, 
  PRIMARY KEY (app, dimension, value, descriptor, at)
);
CREATE TABLE detector_progress (
  app VARCHAR(255) NOT NULL, 
  revision INTEGER NOT NULL, 
  progress JSON NOT NULL, 
  PRIMARY KEY (app)
);
CREATE TABLE detector_states (
  app VARCHAR(255) NOT NULL, 
  dimension VARCHAR(32) NOT NULL, 
  value VARCHAR(512) NOT NULL, 
  descriptor VARCHAR(255) NOT NULL, 
  month VARCHAR(7) NOT NULL, 
  state JSON NOT NULL, 
  PRIMARY KEY (app, dimension, value, descriptor, month)
);
CREATE TABLE accepted_windows (
  app VARCHAR(255) NOT NULL, 
  until FLOAT NOT NULL, 
  since FLOAT NOT NULL, 
  release VARCHAR(255), 
  rows BIGINT NOT NULL, 
  accepted_at FLOAT NOT NULL, 
  PRIMARY KEY (app, until)
);
CREATE TABLE awaited_references (
  id BIGSERIAL NOT NULL, 
  app VARCHAR(255) NOT NULL, 
  release VARCHAR(255) NOT NULL, 
  since FLOAT NOT NULL, 
  PRIMARY KEY (id)
);
CREATE INDEX ix_awaited_references_app ON awaited_references (app);
CREATE TABLE pinned_references (
  id BIGSERIAL NOT NULL, 
  app VARCHAR(255) NOT NULL, 
  since FLOAT NOT NULL, 
  until FLOAT NOT NULL, 
  pinned_at FLOAT NOT NULL, 
  why TEXT NOT NULL, 
  source VARCHAR(32) NOT NULL, 
  release VARCHAR(255), 
  frozen BOOLEAN NOT NULL, 
  PRIMARY KEY (id)
);
CREATE INDEX ix_pinned_references_app ON pinned_references (app);
CREATE TABLE reference_summaries (
  reference BIGINT NOT NULL, 
  dimension VARCHAR(32) NOT NULL, 
  value VARCHAR(255) NOT NULL, 
  summary BYTEA NOT NULL, 
  PRIMARY KEY (reference, dimension, value)
);
CREATE TABLE rejected_windows (
  app VARCHAR(255) NOT NULL, 
  until FLOAT NOT NULL, 
  PRIMARY KEY (app, until)
);
CREATE TABLE descriptor_segments (
  id BIGSERIAL NOT NULL, 
  app VARCHAR(255) NOT NULL, 
  version VARCHAR(16) NOT NULL, 
  after_seq BIGINT NOT NULL, 
  through_seq BIGINT NOT NULL, 
  rows INTEGER NOT NULL, 
  at_min FLOAT NOT NULL, 
  at_max FLOAT NOT NULL, 
  data BYTEA NOT NULL, 
  PRIMARY KEY (id)
);
CREATE INDEX descriptor_segments_place ON descriptor_segments (version, through_seq);
CREATE INDEX descriptor_segments_window ON descriptor_segments (version, app, at_max);
CREATE TABLE hourly_summaries (
  version VARCHAR(16) NOT NULL, 
  app VARCHAR(255) NOT NULL, 
  dimension VARCHAR(32) NOT NULL, 
  hour BIGINT NOT NULL, 
  value VARCHAR(512) NOT NULL, 
  rows BIGINT NOT NULL, 
  data BYTEA NOT NULL, 
  PRIMARY KEY (version, app, dimension, hour, value)
);
CREATE TABLE ingest_cursors (
  id BIGSERIAL NOT NULL, 
  version VARCHAR(16) NOT NULL, 
  descriptors VARCHAR(16) NOT NULL, 
  slices JSON NOT NULL, 
  cursor BIGINT NOT NULL, 
  feedback_cursor BIGINT NOT NULL, 
  revision BIGINT NOT NULL, 
  described BIGINT NOT NULL, 
  unfit BIGINT NOT NULL, 
  caught_up BOOLEAN NOT NULL, 
  PRIMARY KEY (id), 
  UNIQUE (version)
);
CREATE TABLE ingest_failures (
  version VARCHAR(16) NOT NULL, 
  app VARCHAR(255) NOT NULL, 
  hour BIGINT NOT NULL, 
  descriptor VARCHAR(255) NOT NULL, 
  rows BIGINT NOT NULL, 
  reason TEXT NOT NULL, 
  PRIMARY KEY (version, app, hour, descriptor)
);
