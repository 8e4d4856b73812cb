-- What is there, what of it is kept for orders, and what orders were told of. Prices are cents.
CREATE TABLE stock (
    sku VARCHAR(64) NOT NULL PRIMARY KEY,
    available BIGINT NOT NULL,
    reserved BIGINT NOT NULL,
    price BIGINT NOT NULL,
    ordered BIGINT NOT NULL,
    cancelled BIGINT NOT NULL
);

-- What became of each reservation, by its Idempotency-Key: reserved, refused or released. A release without a reservation is
-- a row too: it refuses the reservation that comes later.
CREATE TABLE reservations (
    id VARCHAR(128) NOT NULL PRIMARY KEY,
    sku VARCHAR(64) NOT NULL,
    quantity BIGINT NOT NULL,
    amount BIGINT NOT NULL,
    state VARCHAR(16) NOT NULL
);

-- The events that were taken, each once.
CREATE TABLE events (
    id VARCHAR(64) NOT NULL PRIMARY KEY
);

INSERT INTO stock (sku, available, reserved, price, ordered, cancelled) VALUES
    ('anchor', 50, 0, 2500, 0, 0),
    ('rope', 1000, 0, 300, 0, 0),
    ('lantern', 2, 0, 9900, 0, 0);
