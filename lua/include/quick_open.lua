-- The fast path of open.lua: one room that is absent, without a decode prefix length. Times are milliseconds.
--
-- It comes before all else, and defines nothing: functions and tables that are not used are a third of the cost of a
-- call. Whatever is unusual, it leaves to the rest of the script before it writes. A test compares the two. The
-- arguments are as in open.lua, the counts as in counts.lua, the entry as in feed.lua.

if #ARGV == 13 and ARGV[1] ~= '0' and redis.call('EXISTS', KEYS[5], KEYS[6]) == 0 then
  local room, rank, owner, incarnation = KEYS[5], ARGV[6], ARGV[8], ARGV[9]
  local request, incoming, seen = ARGV[11], ARGV[12], ARGV[13]
  local shard, time = redis.call('HMGET', KEYS[2], 'epoch', 'generation'), redis.call('TIME')
  local generation, last = time[1] .. string.sub('00000' .. time[2], -6), shard[2]
  local is_usual = shard[1] and request ~= '' and (incoming == 'Bootstrapping' or incoming == 'WaitingForInput')
    and (not last or (#last == #generation and last < generation))
    and (seen == '' or (#seen == #generation and seen < generation))
  if is_usual and owner ~= '' then
    local lease = redis.call('HGET', KEYS[3], owner)
    is_usual = lease and string.find(lease, incarnation .. ' ', 1, true) == 1
  end
  if is_usual then
    local now_ms, id, status = string.sub(generation, 1, -4), string.sub(room, #KEYS[1] + 2), incoming
    if rank ~= '' and ARGV[7] ~= '1' then status = 'Bootstrapping' end
    local opened = now_ms .. '-0'
    -- What later writes read and write comes first: the server searches a room's fields from the front.
    local names, n = {
      'status', status, 'updated_ms', now_ms, 'generation', generation, nil, nil, nil, nil, nil, nil, nil, nil, nil,
      nil, nil, nil, nil, nil, nil, nil
    }, 6
    local entry, size = {'ttl_ms', ARGV[2], id, status, nil, nil, nil, nil, nil, nil, nil, nil}, 4
    if rank ~= '' then
      names[7], names[8], names[9], names[10] = 'version', '1', 'counts', '1 0 0 0 0 0'
      if incoming == 'WaitingForInput' then names[10] = '0 1 0 0 0 0' end
      names[11], names[12], names[13], names[14], n = 'status:' .. rank, incoming, 'world_size', ARGV[7], 14
      entry[5], entry[6], size = 'first:' .. rank, incoming, 6
    end
    entry[size + 1], entry[size + 2], size = 'first', generation, size + 2
    if owner ~= '' then
      names[n + 1], names[n + 2], names[n + 3], names[n + 4] = 'incarnation', incarnation, 'owner', owner
      if rank ~= '' then names[n + 1] = 'by:' .. rank end
      entry[size + 1], entry[size + 2], n, size = 'owner', owner, n + 4, size + 2
    end
    names[n + 1], names[n + 2], names[n + 3], names[n + 4], n = 'opened', opened, 'request', request, n + 4
    entry[size + 1], entry[size + 2], size = 'request', request, size + 2
    redis.call('HSET', KEYS[2], 'generation', generation)  -- the first write: at maxmemory, it is refused
    -- As in update_one.lua: every 17 minutes is often enough.
    local is_due = not last or string.sub(last, 1, 7) ~= string.sub(generation, 1, 7)
    if is_due then redis.call('PEXPIRE', KEYS[2], ARGV[4]) end
    redis.call('HSET', room, unpack(names, 1, n))
    redis.call('PEXPIRE', room, ARGV[2])
    if owner ~= '' then
      local added = redis.pcall('ZADD', KEYS[4], incarnation, id)
      if type(added) == 'table' then  -- as in is_other_type.lua
        if type(added.err) ~= 'string' or string.find(added.err, 'WRONGTYPE') then redis.call('DEL', KEYS[4]) end
        redis.call('ZADD', KEYS[4], incarnation, id)
      end
      redis.call('PEXPIRE', KEYS[4], ARGV[4])
    end
    local appended = redis.pcall('XADD', KEYS[1], 'NOMKSTREAM', 'MAXLEN', '~', ARGV[1], '*', unpack(entry, 1, size))
    if not appended or appended.err then
      local text = appended and appended.err  -- as in changes.lua
      if text and (type(text) ~= 'string' or string.find(text, 'WRONGTYPE') or string.find(text, ' ID')) then
        redis.call('DEL', KEYS[1])
      end
      appended, is_due = redis.call('XADD', KEYS[1], '*', unpack(entry, 1, size)), true
    end
    if is_due then redis.call('PEXPIRE', KEYS[1], '86400000') end
    if appended ~= opened then redis.call('HSET', room, 'opened', appended) end
    return {appended, shard[1], 1, incoming, generation, '0', owner ~= '' and owner, request, appended}
  end
end
