-- Whether the caller's lease is lost: it is absent, or has another incarnation. False without a lease.
--
-- INCLUDE  caller

local function is_lease_lost()
  if owner == '' then return false end
  local lease = redis.call('HGET', KEYS[3], owner)
  return not (lease and string.find(lease, incarnation .. ' ', 1, true) == 1)
end
