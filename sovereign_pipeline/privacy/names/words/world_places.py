"""Names of places and peoples of the world, in Latin letters without accents, in small letters.

What belongs here: countries, large cities, and the counties and towns of the United Kingdom and Ireland that have a
dialling code of their own. Many are family names too, so alone they say nothing: how they are used is in `evidence.py`.
"""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


PLACES_WORLD = _words(
    """
    abbeyleix aberdeen aberdeenshire aberfeldy abergavenny aberystwyth abidjan abingdon abington aboyne accra
    adelaide aden adriatic aegean afghanistan africa ajman alabama alaska albania alberta aldershot aleppo
    alford algeria algiers allerdale alloa alnwick alton america americas amesbury amman ammanford amsterdam
    andalusia andorra andover anglesey angola angus ankara antalya antarctica antrim antwerp appleby arbroath
    arctic ardee ardgay ardrossan argentina argyll arizona arkansas arklow armagh armenia arrochar aruba
    ashbourne ashburton ashfield ashford asia assam athens athlone athy atlanta atlantic auckland australia
    austria avon axminster aylesbury ayrshire ayton azerbaijan baghdad bahamas bahrain baku bala balkans
    ballachulish ballater ballina ballinasloe ballindalloch ballinrobe ballycastle ballyclare ballygawley
    ballymena ballymoney baltic baltimore baltinglass bamburgh banbridge banbury banchory bandon banff
    banffshire bangalore bangkok bangladesh bangor bantry barbados barcelona barking barmouth barnet barnsley
    barnstaple basildon basingstoke basra bassetlaw bath bathgate bavaria bedale bedford bedfordshire beijing
    beirut belarus belfast belgium belgrade belize bellingham belmullet belturbet bengal bengaluru benin bergen
    berkshire berlin bermuda bern berwickshire bewdley bexley bexleyheath bhutan bicester bideford biggar bihar
    bilbao birmingham birr blaby blackburn blackpool blairgowrie blandford blyth bodmin bogota bolivia bologna
    bolsover bolton bonn bordeaux boroughbridge bosnia boston botswana bourne bournemouth bracknell bradford
    braintree brampton brasilia bratislava brazil brechin brecon bremen brent brentwood bridgend bridgnorth
    bridgwater bridlington bridport brigg brighton brisbane bristol britain brittany broadland bromley bromyard
    broxbourne broxtowe brunei brussels bucharest buckingham buckinghamshire budapest bude bulgaria buncrana
    bungay burgundy burkina burma burnley burundi busan buxton caernarfon cahersiveen cahir cahirciveen cairo
    caithness calcutta calderdale calgary california callander camberley cambodia cambridge cambridgeshire
    camden camelford cameroon campbeltown canada canberra cannock canterbury caracas cardiff cardigan caribbean
    carlisle carlow carmarthen carradale carrickmacross carrickmore casablanca cashel castlebar castlebay
    castleblaney castlecomer castlepollard castlerea catalonia caterham catterick caucasus cavan ceredigion chad
    chard chatteris chelmsford cheltenham chennai chepstow chernihiv cheshire chester chesterfield chicago
    chichester chile chilterns china chippenham chorley cirencester clackmannanshire claremorris clevedon
    cleveland clifden clitheroe clones clonmel clopton clwyd clyde clynderwen coachford coalville coatbridge
    colchester coldstream coleraine coleshill cologne colombia colombo colonsay colorado comoros congleton congo
    connecticut consett conwy cookstown cootehill copeland copenhagen coppull cork cornwall corsica corwen
    cotswolds coventry craigellachie cranbrook crawley crediton crete crewe crieff crimea croatia cromer croydon
    cuba cumberland cumbria cumnock curragh cyprus czechia dacorum dakar dallas dalmally damascus darfur
    darlington dartford darwen daventry dearne delaware delhi denbighshire denmark denver derby derbyshire
    dereham detroit devizes devon dhaka dingle dingwall diss djibouti doha dominica donbas doncaster donegal
    donetsk dorchester dorking dorset dortmund dover downpatrick dresden driffield drogheda dubai dublin dudley
    dulverton dumbarton dumfries dunbar dunbartonshire dundalk dundee dunfermline dungannon dungarvan dungloe
    dunkeld dunoon duns durham dursley dusseldorf dyfed ealing easingwold eastbourne eastleigh ebbsfleet ecuador
    edenderry edinburgh edmonton egypt elgin ellon enfield england ennis enniscorthy enniskillen ennistymon
    epsom erbil erewash eritrea esher essen essex estonia eswatini ethiopia eurasia europe evesham exeter
    fakenham falkirk falmouth fareham faringdon felixstowe fenland fermanagh fermoy ferns fife fiji finland
    fishguard fivemiletown flanders flintshire florida folkestone forfar forres fortrose france frankfurt
    fraserburgh freshford frome fujairah furness fylde gabon gainsborough gairloch galashiels galway gambia garstang
    garston gateshead gaza gdansk gedling geneva genoa germany ghana ghent gibraltar girvan glamorgan glasgow
    glastonbury glenborrodale glenurquhart glossop gloucester gloucestershire golspie goole gorey gort gosforth
    gosport gothenburg granada granard grantham gravesend gravesham greece greenland greenock greenwich grenada
    grenoble gretna grimsby guangzhou guatemala guernsey guildford guinea guisborough guiseley gujarat guyana
    gwent gwynedd hackney hague haifa haiti halifax halton haltwhistle hama hamburg hammersmith hampshire hanoi
    hanover harare harborough haringey harrogate harrow harthill hartlepool haslemere hastings hathersage havana
    haverfordwest haverhill havering hawaii hawick hawkshead heathfield hebrides hebron helensburgh helmsdale
    helmsley helsinki hereford herefordshire hertfordshire hertsmere herzegovina hexham highlands hillingdon
    hinckley hiroshima hitchin hodeidah holbeach holsworthy holyhead homs honduras honington honiton hornby
    hornsea horsham hounslow houston huddersfield humber humberside hungary hungerford hunstanton huntingdon
    huntingdonshire huntly hyderabad ibiza iceland idaho idlib illinois india indiana indonesia innsbruck insch
    inveraray inverness inverurie iowa ipstones ipswich iran iraq ireland islamabad islington israel istanbul
    italy izmir jakarta jamaica japan jeddah jenin jersey jerusalem johannesburg johnstone jordan kabul kampala
    kandahar kansas kanturk karachi kashmir kathmandu kazakhstan keighley kells kelso kendal kensington kent
    kentucky kenya kerala kesh keswick kettering kharkiv khartoum kherson khobar kidderminster kiev kilchrenan
    kildare kilkenny killarney killearn killenaule killin killingholme killorglin kilmacthomas kilmarnock
    kilmelford kilrea kilronan kilrush kincardineshire kingsbridge kington kingussie kinross kinrossie kinsale
    kinshasa kircubbin kiribati kirkcaldy kirkcudbright kirklees kirkwhelpington kirriemuir knighton knowsley
    knutsford kolkata korea kosovo krakow kurdistan kuwait kyiv kyoto kyrgyzstan ladybank laggan lagos lahore
    lairg lambeth lampeter lanark lanarkshire lancashire lancaster langholm laos lapworth larne latakia latvia
    lauder launceston laurencekirk lausanne lebanon ledbury leeds leicester leicestershire leipzig leominster
    lerwick lesotho letterkenny levant lewisham leyburn liberia libya liechtenstein lille limavady limerick
    lincoln lincolnshire lisbon lisburn liskeard lisnaskea listowel lithuania liverpool ljubljana llanarth
    llandeilo llandovery llandysul llanelli llanidloes llanon lochboisdale lochcarron lochgilphead lochinver
    lochmaddy lockerbie london londonderry longford looe lothian loughborough loughrea louisiana louth lowestoft
    ludlow luhansk lusaka luton luxembourg luxor lviv lybster lydney lymington lynton lyon macclesfield
    macedonia machynlleth macroom madagascar madingley madras madrid magherafelt maghreb maharashtra maidenhead
    maidstone maine malaga malawi malaysia maldives maldon mali mallaig mallow malmesbury malmo malta malton
    malvern managua manama manchester manila manitoba mannheim manorhamilton mansfield maputo mariupol
    marlborough marrakesh marseille martinstown maryland massachusetts matlock mauritania mauritius maybole
    mecca medina mediterranean medway melbourne melton memphis mendip meriden mersey merseyside merton
    mesopotamia mexico miami michigan micronesia middlesbrough middlesex midlands midlothian milan millom
    milwaukee minehead minneapolis minnesota minsk mississippi missouri moffat mogadishu mold moldova mombasa
    monaco monaghan mongolia monmouth monmouthshire montana montenegro montevideo montreal montrose moray
    morayshire morecambe moretonhampstead morocco morpeth moscow mosul motherwell mozambique mullingar mumbai
    munich muscat myanmar naas nablus nagasaki nagoya nairn nairnshire nairobi namibia nantes naples narberth
    nauru navan neath nebraska nenagh nepal netherlands nevada newbury newcastle newham newmarket newport
    newquay newry newtown newtownstewart nicaragua nicosia niger nigeria norfolk normandy northallerton
    northampton northamptonshire northfleet northumberland northumbria northwich norway norwich nottingham
    nottinghamshire nuneaton nuremberg oadby oakham oban oceania odesa odessa ohio okehampton oklahoma oldcastle
    oldham oldmeldrum omagh oman ontario oregon orkney orpington osaka oslo oswestry ottawa oxford oxfordshire
    pacific pakenham pakistan palau palermo palestine panama paraguay paris patrington peebles pembrokeshire
    pencombe pendle penicuik pennines pennsylvania penrith penzance perth perthshire peru peshawar peterborough
    peterhead petersfield philadelphia philippines phoenix pickering pitlochry pittsburgh plymouth pocklington
    poland polynesia pontefract pontypool pontypridd portadown porthmadog portlaoise porto portsmouth portugal
    portumna powys prague pretoria provence prudhoe pulborough punjab putney pwllheli pyongyang qatar quebec
    queensland quito rabat rafah rajasthan ramallah rangoon raqqa rathluirc rathmore reading redbridge redditch
    redhill redruth renfrewshire retford reykjavik rhyl richmond riga ringwood ripley ripon riyadh rochdale
    rockbourne romania romford romsey roscommon roscrea rossendale rostrevor rothbury rother rotherham rothesay
    rotterdam roxburghshire royston rugby rugeley runcorn rushcliffe rushmoor russia ruthin rutland rwanda
    ryedale sahara sahel saintfield salford salisbury salzburg samoa sana sanday sandwell sandwick sanquhar
    santiago sapporo sarajevo sardinia saskatchewan saxmundham saxony scandinavia scarborough scariff scarinish
    scotland scourie scunthorpe seaham seattle sedbergh sedgefield sedgemoor sefton selby selkirk senegal seoul
    serbia settle sevenoaks severn seville seychelles shaftesbury shanghai shap sharjah sheffield shenzhen
    shetland shrewsbury shropshire siberia sicily sindh singapore sittingbourne skegness skelmersdale skibbereen
    skipton skopje sleaford sligo slough slovakia slovenia sofia solent solihull somalia somaliland somerset
    southampton southport southwark spain spalding spelthorne spilsby stafford staffordshire staines stamford
    stanhope stevenage stirling stockholm stockport stonehaven stornoway stowmarket stranraer strasbourg
    strathaven strathclyde strathdon strathpeffer strathy strontian stuttgart sudan sudbury suffolk sunderland
    surabaya suriname surrey sussex sutherland sutton swaffham swansea sweden swindon switzerland sydney syria
    tain taipei taiwan taiz tajikistan tallinn tameside tampa tampere tamworth tandridge tanzania tarbert
    tarporley tashkent tasmania taunton tavistock tayside tbilisi tees teesside tehran telford tendring
    tennessee texas thailand thame thames thanet thessaloniki thetford thirsk thornhill thurles thurrock thurso
    tianjin tibet tigray timor tipperary tirana tiverton togo tokyo tomatin tomdoun tonga tongue torbay toronto
    torquay torridge torrington tottenham toulouse trafford tralee tranent trent trim trinidad tripoli truro
    tuam tullamore tunis tunisia turin turkey turkiye turkmenistan turku turriff tuscany tuvalu twickenham tyne
    tyneside tyrellspass tyrone tyrrellspass uckfield uganda ukraine ullapool ulster upminster uruguay utah
    utrecht uttlesford uxbridge uzbekistan valencia vancouver vanuatu vatican venezuela venice vermont vienna
    vietnam vilnius wakefield wales wallonia walsall walthamstow wandsworth warboys ware wareham warminster
    warrington warsaw warwick warwickshire watchet waterford watford wealden wear wellingborough wellington
    welshpool welwyn wessex westerham westminster westmorland
    westport wetherby wexford weybridge whatton whitby whitchurch
    whitehall whitehaven wick wicklow wigan wigton wigtown wiltshire wimbledon wincanton winchester winnipeg
    wirral wisbech wisconsin witney woking wokingham wolverhampton woolwich worcester worcestershire workington
    worksop wormbridge worthing wrekin wrexham wuhan wymondham wyoming wyre yangon yemen yeovil yerevan yokohama
    york yorkshire youghal yugoslavia zagreb zambia zaporizhzhia zaragoza zimbabwe zurich
    """
)

PEOPLES = _words(
    """
    afghan african albanian algerian american anglican arab arabic argentine armenian asian australian austrian
    bahraini bangladeshi belarusian belgian bolivian bosnian brazilian british briton britons buddhist bulgarian
    burmese cambodian canadian catalan catholic catholics chilean chinese christian christians colombian cornish
    croatian cuban cypriot czech dane danish dutch egyptian emirati english eritrean estonian ethiopian european
    europeans filipino finn finnish french georgian german ghanaian greek hindu hindus hungarian icelandic
    indian indonesian iranian iraqi irish islamic israeli israelis italian jamaican japanese jew jewish jews
    jordanian kazakh kenyan korean kurd kurdish kurds kuwaiti latin latvian lebanese libyan lithuanian
    macedonian malay malaysian maltese methodist mexican moldovan mongolian moroccan muslim muslims nepalese
    nigerian nordic norman norwegian omani orthodox pakistani palestinian palestinians persian peruvian pole
    polish portuguese protestant qatari romanian russian rwandan saudi scot scots scottish senegalese serb
    serbian shia sikh sikhs singaporean slovak slovenian somali spaniard spanish sudanese sunni swede swedish
    swiss syrian taiwanese tamil thai tibetan tunisian turk turkish ugandan ukrainian ulster uyghur uyghurs
    uzbek venezuelan vietnamese welsh yemeni yemenite zambian zimbabwean
    """
)
"""What belongs to a country or a faith, and who does."""

PLACES_OF_TWO_WORDS = frozenset(
    place.replace("_", " ")
    for place in _words(
        """
    kuala_lumpur leamington_spa milton_keynes panama_city port_said san_francisco santa_clara sierra_leone
    abu_dhabi addis_ababa ann_arbor belo_horizonte berwick_upon buenos_aires burkina_faso burton_upon bury_st
    cape_town cape_verde carson_city cayman_islands channel_islands charlotte_amalie costa_mesa costa_rica
    dar_es east_jerusalem east_anglia east_sussex el_salvador falkland_islands george_town georgia_tech
    great_britain great_yarmouth guatemala_city ho_chi hong_kong isle_of ivory_coast james_town jersey_city
    jordan_valley kansas_city kerem_shalom king's_lynn lake_charles las_vegas los_angeles marshall_islands
    merthyr_tydfil mexico_city milford_haven neath_port new_mexico new_delhi new_jersey new_orleans
    new_south_wales new_york new_zealand newton_abbot newton_aycliffe north_korea northern_ireland papua_new
    paris_saint phnom_penh port_louis port_sudan port_talbot porto_alegre prince_edward puerto_rico
    rhondda_cynon rio_de royal_tunbridge salt_lake san_antonio san_diego san_jose san_marino san_mateo
    santa_barbara santa_cruz sao_paulo saudi_arabia solomon_islands south_africa south_korea south_sudan
    sri_lanka st_albans st_helens st_helier st_petersburg stoke_on stratford_upon sutton_coldfield tel_aviv
    tower_hamlets tyne_and united_kingdom united_arab united_nations united_states vale_of victoria_falls
    virgin_islands virginia_beach waltham_forest west_bank west_midlands west_sussex
    """
    )
)
"""The first two words of such a name."""
