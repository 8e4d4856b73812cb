-- Amounts are cents.
CREATE TABLE users (
    id VARCHAR(64) NOT NULL PRIMARY KEY,
    name VARCHAR(200) NOT NULL,
    email VARCHAR(200) NOT NULL,
    balance BIGINT NOT NULL
);

-- What became of each charge, by its Idempotency-Key: charged, refused or refunded. A refund without a charge is a row too: it
-- refuses the charge that comes later.
CREATE TABLE charges (
    id VARCHAR(128) NOT NULL PRIMARY KEY,
    user_id VARCHAR(64) NOT NULL,
    amount BIGINT NOT NULL,
    state VARCHAR(16) NOT NULL
);

INSERT INTO users (id, name, email, balance) VALUES
    ('1', 'Ada', 'ada@example.com', 100000),
    ('2', 'Grace', 'grace@example.com', 500);
