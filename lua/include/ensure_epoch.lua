-- The epoch of a shard, created if it is missing: then the shard's other data was lost, too. Times are milliseconds.
--
-- INCLUDE  clock

local function ensure_epoch(epoch_key, nonce, ttl_ms)
  local epoch = redis.call('HGET', epoch_key, 'epoch')
  if epoch then return epoch end
  read_clock()
  epoch = now_us .. '-' .. nonce
  redis.call('HSET', epoch_key, 'epoch', epoch)
  redis.call('PEXPIRE', epoch_key, ttl_ms)
  return epoch
end
