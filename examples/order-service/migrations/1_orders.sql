-- `step` is how far the saga is, see saga.rs. An order whose `claimed_until` (milliseconds since 1970) has passed is nobody's:
-- who finds it goes on with it.
CREATE TABLE orders (
    id VARCHAR(64) NOT NULL PRIMARY KEY,
    idempotency_key VARCHAR(128) NOT NULL UNIQUE,
    user_id VARCHAR(64) NOT NULL,
    sku VARCHAR(64) NOT NULL,
    quantity BIGINT NOT NULL,
    amount BIGINT NOT NULL,
    step VARCHAR(16) NOT NULL,
    reason VARCHAR(200) NOT NULL,
    created BIGINT NOT NULL,
    claimed_until BIGINT NOT NULL
);

CREATE INDEX orders_by_step ON orders (step, claimed_until);

-- Events that are still to be told. They are written in the transaction of what they tell of.
CREATE TABLE outbox (
    id VARCHAR(64) NOT NULL PRIMARY KEY,
    body VARCHAR(1000) NOT NULL
);
